"""The steps: observe, plan, apply."""
