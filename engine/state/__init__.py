"""What is kept on disk of each container, and who may touch it when."""
