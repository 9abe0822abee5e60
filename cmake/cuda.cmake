# Whether device code is built: sets FASTGPU_HAS_CUDA. Without it stubs take its place
# (csrc/kernels/cuda/reduce_code.h), and everything else is the same.
#
# AUTO builds it for a CUDA build of torch if there is a compiler: then somebody may use it, and the
# compiler's 20 seconds of processor time for each architecture are well spent.
include(CheckLanguage)

set(FASTGPU_CUDA AUTO CACHE STRING "build device code: ON, OFF or AUTO")
set_property(CACHE FASTGPU_CUDA PROPERTY STRINGS AUTO ON OFF)

set(FASTGPU_HAS_CUDA OFF)
if(FASTGPU_CUDA STREQUAL "AUTO")
  set(wanted "${torch_cuda}")
else()
  set(wanted ${FASTGPU_CUDA})
endif()
if(FASTGPU_SANITIZE OR NOT wanted)
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # no CUDA library is needed to load the extension
if(CMAKE_VERSION VERSION_LESS 3.26)  # it knows no flag with which nvcc compiles C++20
  set(lacking "CMake 3.26 or newer, and this is ${CMAKE_VERSION}; pip install cmake")
else()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(lacking "nvcc, which is not found")
  endif()
endif()
if(NOT DEFINED lacking)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  set(FASTGPU_HAS_CUDA ON)
elseif(FASTGPU_CUDA STREQUAL "AUTO")
  message(STATUS "This build for torch with CUDA ${torch_cuda} has no device code. That needs ${lacking}")
else()
  message(FATAL_ERROR "FASTGPU_CUDA=${FASTGPU_CUDA} needs ${lacking}")
endif()
