"""What holds at a solution: a problem and its optimality conditions."""
