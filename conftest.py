"""Settings for every test and for the notebook kernels that nbval starts."""

import os

os.environ["TQDM_DISABLE"] = "1"  # progress bars are for people; stored outputs have none
os.environ["PYTHONHASHSEED"] = "0"
