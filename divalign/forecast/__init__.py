"""What a configuration will cost before it is run, here or on a GPU, and its pipeline walked on random weights."""
