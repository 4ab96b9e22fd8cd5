"""{{ JMESPath }} in the strings of a job: read within bounds, filled within bounds."""
