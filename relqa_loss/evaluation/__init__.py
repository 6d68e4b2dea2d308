"""Figures of merit: engine-based scores, speed, recovery by descent, lines, and the model card made from them."""
