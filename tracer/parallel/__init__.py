"""How the ops of a trace are split over tensor-parallel ranks: read off the model, in no other place."""
