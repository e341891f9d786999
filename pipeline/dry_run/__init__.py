"""What a run would do, write and need, found out before hours are spent; nothing is made or downloaded."""
