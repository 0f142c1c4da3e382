"""Makes the embedded data set: JPEG files and text, small, learnable, seeded."""
