"""RL on a task of reasoning-gym, from nothing; see README.md."""
