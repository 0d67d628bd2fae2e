"""What is to be solved: data on the device, network, loss, evaluation, first ticket, recipe."""
