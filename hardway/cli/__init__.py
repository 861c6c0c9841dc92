"""What every task shares at the prompt, and the program `hardway`."""
