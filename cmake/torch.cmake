# Finds Python and its torch, without torch's own CMake package, and sets torch_root, torch_version,
# torch_cxx11_abi and torch_cuda: the CUDA version of that torch, empty for a build for CPUs.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)

execute_process(
  COMMAND ${Python_EXECUTABLE} ${PROJECT_SOURCE_DIR}/csrc/torch/describe_torch.py
  OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${Python_EXECUTABLE} cannot import torch; install torch 2.11 to 2.15 first, "
    "and build with --no-build-isolation so that the extension fits it")
endif()
foreach(name IN ITEMS root version cxx11_abi cuda)
  string(REGEX MATCH "(^|\n)${name}=([^\n]*)" line "${described}")
  set(torch_${name} "${CMAKE_MATCH_2}")
endforeach()
if(torch_version VERSION_LESS 2.11)
  message(FATAL_ERROR "fastgpu_comm builds against torch 2.11 to 2.15; ${Python_EXECUTABLE} has "
    "torch ${torch_version}")
elseif(torch_version VERSION_GREATER 2.15)
  message(WARNING "fastgpu_comm is tested with torch 2.11 to 2.15 only; ${Python_EXECUTABLE} has "
    "torch ${torch_version}")
endif()
message(STATUS "Building for torch ${torch_version} in ${torch_root}")
