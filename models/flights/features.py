"""The columns of the flights data, by their role in the model."""

import itertools

# Strings, with a vocabulary each.
VOCABULARIES = ("carrier", "origin", "dest")

# Integers that are ids, with the number of ids.
IDS = {"hour": 24, "weekday": 7}

# Pairs of ids; each combination has its own weight in the wide part.
CROSSES = tuple(itertools.combinations((*VOCABULARIES, *IDS), 2))

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

# The transformed feature that holds all numeric features.
NUMERIC = "numeric"
