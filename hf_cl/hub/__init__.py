"""From a run to others and back: model card, push, load, predict."""
