include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mavx512fp16 FASTGPU_HAS_AVX512FP16)

# fastgpu_layer(NAME LINKS...): one static library a csrc/ folder; NAME may be a folder inside
# another layer's, whose sources then belong to it alone. A layer sees the headers of the layers it
# links and no others: each is reached through a folder of its own that holds one link.
function(fastgpu_layer name)
  set(folder ${CMAKE_CURRENT_SOURCE_DIR}/${name})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "^${folder}/(proof|simulate)/")
  file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${folder}/*.cu)
  if(FASTGPU_HAS_CUDA)
    list(FILTER sources EXCLUDE REGEX "_stub\\.cpp$")
  endif()
  string(REPLACE "/" "_" target fastgpu_${name})
  add_library(${target} STATIC ${sources})
  if(NOT name MATCHES "/")
    set(include ${CMAKE_BINARY_DIR}/include/${name})
    file(MAKE_DIRECTORY ${include})
    file(CREATE_LINK ${folder} ${include}/${name} SYMBOLIC)
    target_include_directories(${target} PUBLIC ${include})
  endif()
  foreach(link IN LISTS ARGN)
    target_link_libraries(${target} PUBLIC fastgpu_${link})
  endforeach()
  target_link_libraries(${target} PRIVATE fastgpu_flags PUBLIC Threads::Threads)
  fastgpu_simd_flags("${sources}")
  if(FASTGPU_HAS_CUDA AND cuda_sources)
    fastgpu_device_code(${target} "${cuda_sources}")
  endif()
endfunction()

# Compiles a layer's .cu files into its library. The bits must be those of the CPU: no fused
# multiply-add.
function(fastgpu_device_code target sources)
  add_library(${target}_cuda OBJECT ${sources})
  target_include_directories(${target}_cuda PRIVATE
    $<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>)
  target_compile_options(${target}_cuda PRIVATE --fmad=false -Xcompiler=-Wall,-Wextra)
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_cuda>)
  target_link_libraries(${target} PUBLIC CUDA::cudart_static)
endfunction()

# NAME_avx2.cpp, NAME_avx512.cpp and NAME_avx512fp16.cpp hold the same loops as NAME_base.cpp,
# compiled for more; which one runs is decided at run time, so that one binary serves every x86-64.
# The last one is empty where the compiler knows no AVX512-FP16 (gcc before 12, clang before 14).
function(fastgpu_simd_flags sources)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
  endif()
  set(avx2 "-mavx2;-mfma;-mf16c")
  set(avx512
    "${avx2};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mprefer-vector-width=512")
  foreach(source IN LISTS sources)
    if(source MATCHES "_avx512\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${avx512}")
    elseif(source MATCHES "_avx512fp16\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "${avx512};$<$<BOOL:${FASTGPU_HAS_AVX512FP16}>:-mavx512fp16>")
    elseif(source MATCHES "_avx2\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${avx2}")
    elseif(source MATCHES "_base\\.cpp$")
      set_source_files_properties(${source} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endif()
  endforeach()
endfunction()

add_library(fastgpu_flags INTERFACE)
# A fused multiply-add rounds once where a product and a sum round twice: without it, every
# instruction set computes the same bits, in reductions as in the prices that each rank works out.
target_compile_options(fastgpu_flags INTERFACE -Wall -Wextra -Wconversion -ffp-contract=off)
# clang means more by -Wconversion than gcc does, and wants every marked loop to be vectorised.
target_compile_options(fastgpu_flags INTERFACE
  $<$<CXX_COMPILER_ID:Clang>:-Wno-sign-conversion;-Wno-pass-failed>)
# gcc 12 sees an overlap wherever a literal and a string are added (GCC bug 105329).
target_compile_options(fastgpu_flags INTERFACE
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
