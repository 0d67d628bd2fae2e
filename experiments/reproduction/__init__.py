"""From a table of a paper to runs, and from runs to the table with the paper's numbers beside ours."""
