"""The columns of the flights data, by what the model makes of them."""

LABEL = "late"
TIME = "time_hour"

# Strings that become ids of a vocabulary, by the length of their embedding.
VOCABULARIES = {"carrier": 8, "origin": 4, "dest": 8}

# Integers that are ids already: how many there are, and the length of their embedding.
IDS = {"hour": (24, 8), "weekday": (7, 4)}

# Pairs of ids whose every combination has a weight of its own in the wide part.
CROSSES = (("carrier", "origin"), ("carrier", "dest"), ("origin", "hour"), ("carrier", "hour"))

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

# What a request has to hold: everything the model reads, and nothing else.
RAW_FEATURES = (*VOCABULARIES, *SCHEDULE, *WEATHER)

# Transformed features: all numbers, and how much a row counts in training.
NUMERIC = "numeric"
WEIGHT = "weight"

# The model's only output.
PROBABILITY = "probability"
