"""Figures of merit: engine-based scores, speed, recovery by descent, and the model card made from them."""
