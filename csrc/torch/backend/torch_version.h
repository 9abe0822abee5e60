// Marks what only newer versions of torch know. c10d::Backend and its relatives gain virtual
// functions from one minor version to the next: here such a function is declared for all versions,
// with FASTGPU_SINCE_2_14 or FASTGPU_SINCE_2_15 in the place of `override`.
#pragma once

#include <torch/version.h>

#define FASTGPU_TORCH_SINCE(minor) (TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= (minor))

#if FASTGPU_TORCH_SINCE(14)
#define FASTGPU_SINCE_2_14 override
#else
#define FASTGPU_SINCE_2_14
#endif

#if FASTGPU_TORCH_SINCE(15)
#define FASTGPU_SINCE_2_15 override
#else
#define FASTGPU_SINCE_2_15
#endif
