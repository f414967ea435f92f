"""What jobs import, imported once: processes for jobs are forked from a server that has loaded this module. A job then
starts in half a second instead of six. Nothing here may touch a GPU or start a thread: what is forked after that does
not work. (Where there are GPUs jobs are not forked at all, see notebook.execute.)"""

import gc
import importlib
import os

from il2m.notebook.execute import KERNEL_ENVIRONMENT

os.environ |= KERNEL_ENVIRONMENT  # before matplotlib and the numerical libraries read it

_TO_EXECUTE = ("ipykernel.kernelapp", "ipykernel.zmqshell", "papermill", "nbconvert", "il2m.notebook.pages")
_OF_NOTEBOOKS = ("il2m.explorer.explore", "il2m.study.stages", "il2m.results.collect", "il2m.results.factorial")
for name in (*_TO_EXECUTE, "pyarrow.parquet", "seaborn", "tqdm.auto", *_OF_NOTEBOOKS):
    importlib.import_module(name)

gc.collect()
gc.freeze()  # memory that the collector never touches stays shared with the jobs
