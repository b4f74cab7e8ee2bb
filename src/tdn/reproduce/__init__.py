"""Results of 2507.01131 as commands: from the data sets that users have to the rows of its tables."""
