"""What is between the stages: artifact directories, their commit protocol, and one schema per artifact kind."""
