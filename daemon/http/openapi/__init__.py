"""What the HTTP APIs take and give, in the terms of OpenAPI 3.1: one description for each, built from the tables of
routes and the schemas here. `build.document` makes them; docs/reference has them as files, the daemon serves them.
"""
