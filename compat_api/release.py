"""longshored: which engine and which versions of the API it says it is.

The version begins with that of the Docker Engine whose behaviour is followed, because clients
compare it to decide what they may use; what stands behind the plus is ours.
"""

VERSION = "28.5.2+longshore.0.1.0"

# The newest and the oldest version of the API, as (major, minor).
NEWEST = (1, 51)
OLDEST = (1, 24)

NEWEST_TEXT = "1.51"
OLDEST_TEXT = "1.24"
