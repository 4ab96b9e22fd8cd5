"""The job language: the JSON of an `http` job, the plan it makes, and one attempt of it."""
