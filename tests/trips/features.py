"""The columns of the trips, by what the model makes of them."""

# Strings, with a vocabulary each.
VOCABULARIES = ("company", "origin", "dest")

# Integers that are ids, with the number of ids.
IDS = {"hour": 24}

SCHEDULE = ("day_of_week", "sched_dep_time", "sched_arr_time", "distance")
WEATHER = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)

# The features of a request: exactly those that the model reads.
RAW_FEATURES = (*VOCABULARIES, *SCHEDULE, *WEATHER)

# The transformed feature that holds all numeric features.
NUMERIC = "numeric"
