"""What an operation costs: GPU facts and the bounds that follow from them."""
