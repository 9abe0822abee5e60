"""Prints what the build needs to know of the installed torch, a name=value line each.

Asked of Python because torch's own CMake package wants CUDA's variables on a CUDA build.
"""

import os

# A backend that an earlier build left broken must not stop the build that mends it.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

import torch

print("root=" + os.path.dirname(torch.__file__))
print("version=" + ".".join(torch.__version__.split("+")[0].split(".")[:2]))
print("cxx11_abi=" + str(int(torch.compiled_with_cxx11_abi())))
