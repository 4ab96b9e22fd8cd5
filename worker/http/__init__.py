"""The built-in job type `http` and the engine under it; stands on the public face like any user's code."""
