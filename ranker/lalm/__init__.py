"""The audio language model: features, model, training, generation."""
