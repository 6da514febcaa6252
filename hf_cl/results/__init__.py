"""What a run measured, what it was made of, and how both are shown. Nothing here imports torch."""
