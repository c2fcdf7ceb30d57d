"""Arrays → arrays: export, the engines that run what is exported, and their measurement."""
