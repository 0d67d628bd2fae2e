"""How runs are trained: one or several at once, resumed, logged, measured; on which devices, in how much memory."""
