"""Networks of other packages, trained on the accuracy suite in the interpreters where they are installed.

Nothing here imports more than PyTorch, NumPy and the peer: tdn itself need not be installed there.
"""
