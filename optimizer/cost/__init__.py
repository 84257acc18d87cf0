"""What a program costs: counted work here, predictions per device beside it."""
