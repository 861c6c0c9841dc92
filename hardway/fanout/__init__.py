"""Many instances as one: commands, copies, and files that instances pass on to each other."""
