"""The tasks' common behaviour at the prompt, and the program `hardway`."""
