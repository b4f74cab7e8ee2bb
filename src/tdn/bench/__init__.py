"""The benchmark suite: our convolution and network beside those of other packages, on the same structures in one run.

Every contender runs in a process of its own, in the interpreter where its package is installed, and all take turns
round by round, so that a slow spell of the machine hits all of them; what is reported are medians with quartiles, and
ratios taken within a round.
"""
