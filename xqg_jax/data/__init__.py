"""What goes down the road: passages, questions, queries, pairs, runs."""
