"""The columns of the trips, by what the model makes of them."""

# Strings that become ids of a vocabulary.
VOCABULARIES = ("company", "origin", "dest")

# Integers that are ids already, by how many there are.
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

# The features of a request: everything the model reads, and nothing else.
RAW_FEATURES = (*VOCABULARIES, *SCHEDULE, *WEATHER)

# The transformed feature that holds all numeric features.
NUMERIC = "numeric"

# The names of the labels 0 and 1 in TensorFlow Serving's Classify.
CLASSES = ("on time", "delayed")
