"""Prints what the build needs to know about the installed torch, one name=value per line.

torch's own CMake package is not used, because it requires CUDA on a CUDA build of torch.
"""

import os

# Importing torch must not load this backend: a broken earlier build would stop this one.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

import torch

print("root=" + os.path.dirname(torch.__file__))
print("version=" + ".".join(torch.__version__.split("+")[0].split(".")[:2]))
print("cxx11_abi=" + str(int(torch.compiled_with_cxx11_abi())))
print("cuda=" + (torch.version.cuda or ""))
