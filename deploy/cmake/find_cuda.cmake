# Sets SHOAL_WITH_CUDA where a usable CUDA toolkit is found: the one that
# deploy/install_cuda.sh brings, or nvcc on the PATH. AUTO goes on without one,
# ON stops. nvcc is called by commands of our own: CMake 3.25's CUDA language
# does not know CUDA 13.
include_guard(GLOBAL)
set(SHOAL_CUDA AUTO CACHE STRING "CUDA engine: AUTO (where a toolkit is found), ON or OFF")
set_property(CACHE SHOAL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SHOAL_CUDA_ARCHS 90a CACHE STRING "GPU architectures, as in sm_90a")
if(NOT SHOAL_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SHOAL_CUDA is AUTO, ON or OFF, not ${SHOAL_CUDA}")
endif()

# No contraction: the compiler's own choice of fused operations could differ
# between the kernels that compute one value.
set(shoal_nvcc_flags -std=c++20 -O3 --expt-relaxed-constexpr -fmad=false
  -Werror=all-warnings -Xcompiler=-fPIC)
foreach(arch ${SHOAL_CUDA_ARCHS})
  list(APPEND shoal_nvcc_flags -gencode=arch=compute_${arch},code=sm_${arch})
endforeach()

# Where scripts keep what they bring.
set(shoal_cache $ENV{SHOAL_CACHE})
if(NOT shoal_cache)
  set(shoal_cache $ENV{HOME}/.cache/shoal)
endif()

# Sets `reason` to why there is no usable toolkit, or to nothing.
function(shoal_find_toolkit reason)
  # What has gone since the last run is looked for again.
  foreach(variable SHOAL_NVCC SHOAL_CUDA_INCLUDE SHOAL_CUDART)
    if(${variable} AND NOT EXISTS ${${variable}})
      unset(${variable} CACHE)
    endif()
  endforeach()
  find_program(SHOAL_NVCC nvcc HINTS ${shoal_cache}/cuda-13.0/bin)
  if(NOT SHOAL_NVCC)
    set(${reason} "no nvcc" PARENT_SCOPE)
    return()
  endif()
  get_filename_component(toolkit ${SHOAL_NVCC} REALPATH)
  get_filename_component(toolkit ${toolkit}/../.. ABSOLUTE)
  find_path(SHOAL_CUDA_INCLUDE cuda_runtime.h NO_DEFAULT_PATH
    PATHS ${toolkit}/include ${toolkit}/targets/x86_64-linux/include)
  find_library(SHOAL_CUDART cudart_static NO_DEFAULT_PATH
    PATHS ${toolkit}/lib64 ${toolkit}/lib ${toolkit}/targets/x86_64-linux/lib)
  if(NOT SHOAL_CUDA_INCLUDE OR NOT SHOAL_CUDART OR
      NOT EXISTS ${SHOAL_CUDA_INCLUDE}/cublasLt.h)
    set(${reason}
      "no headers of the runtime or cuBLASLt, or no cudart_static, beside ${SHOAL_NVCC}"
      PARENT_SCOPE)
    return()
  endif()
  set(probe ${PROJECT_BINARY_DIR}/cuda_probe.cu)
  file(WRITE ${probe} "#include <cuda_fp16.h>\n__global__ void Probe() {}\n")
  execute_process(
    COMMAND ${SHOAL_NVCC} ${shoal_nvcc_flags} -c ${probe} -o ${probe}.o
    RESULT_VARIABLE status ERROR_VARIABLE output OUTPUT_VARIABLE output)
  if(NOT status EQUAL 0)
    set(${reason} "${SHOAL_NVCC} fails:\n${output}" PARENT_SCOPE)
    return()
  endif()
  set(${reason} "" PARENT_SCOPE)
endfunction()

set(SHOAL_WITH_CUDA OFF)
# Sanitizers and what runs on a device do not mix.
if(SHOAL_CUDA STREQUAL "OFF" OR (SHOAL_CUDA STREQUAL "AUTO" AND SHOAL_SANITIZE))
  return()
endif()
shoal_find_toolkit(shoal_no_cuda)
if(shoal_no_cuda)
  if(SHOAL_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SHOAL_CUDA=ON: ${shoal_no_cuda}\n"
      "deploy/install_cuda.sh brings a toolkit")
  endif()
  message(STATUS "No CUDA engine: ${shoal_no_cuda}")
  return()
endif()
message(STATUS "CUDA engine with ${SHOAL_NVCC}")
set(SHOAL_WITH_CUDA ON)

# The runtime is linked in: a binary must start where no CUDA library is.
add_library(shoal_cudart INTERFACE)
target_include_directories(shoal_cudart SYSTEM INTERFACE ${SHOAL_CUDA_INCLUDE})
target_link_libraries(shoal_cudart INTERFACE ${SHOAL_CUDART} dl rt)

# shoal_cuda_source(TARGET FILE FLAG...): compiles a .cu file into TARGET.
function(shoal_cuda_source target source)
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${CCACHE_PROGRAM} ${SHOAL_NVCC} ${ARGN} -I${PROJECT_SOURCE_DIR}
      -MD -MF ${object}.d -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source}
    DEPFILE ${object}.d
    COMMENT "Building CUDA object ${source}.o"
    VERBATIM)
  target_sources(${target} PRIVATE ${object})
endfunction()

# shoal_cuda_sources(TARGET FILE...): compiles .cu files of ours into TARGET.
# Machine code for SHOAL_CUDA_ARCHS only.
function(shoal_cuda_sources target)
  set(flags ${shoal_nvcc_flags})
  if(NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
    list(APPEND flags -DNDEBUG)
  endif()
  foreach(source ${ARGN})
    shoal_cuda_source(${target} ${source} ${flags})
  endforeach()
endfunction()
