"""Settings for every test and for the notebook kernels that nbval starts."""

import os

os.environ["TQDM_DISABLE"] = "1"  # progress bars are for people; stored outputs have none
os.environ["PYTHONHASHSEED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"  # two workers share two cores, and sums do not depend on the number of threads
