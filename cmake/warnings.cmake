# SPDX-License-Identifier: Apache-2.0
# Flags that every target of the project is built with. Linked by name: imagefs_flags.
add_library(imagefs_flags INTERFACE)
target_compile_features(imagefs_flags INTERFACE cxx_std_20)
target_include_directories(imagefs_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})
target_compile_definitions(imagefs_flags INTERFACE _FILE_OFFSET_BITS=64 FUSE_USE_VERSION=314)
target_compile_options(imagefs_flags INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(imagefs_flags INTERFACE -Wthread-safety -Werror=thread-safety)
endif()
if(IMAGEFS_SANITIZE)
  target_compile_options(imagefs_flags INTERFACE -fsanitize=${IMAGEFS_SANITIZE} -fno-omit-frame-pointer
                                                 -fno-sanitize-recover=all)
  target_link_options(imagefs_flags INTERFACE -fsanitize=${IMAGEFS_SANITIZE})
  # ThreadSanitizer does not see the fence of base/mapped_file.h, behind which one atomic is read.
  if(IMAGEFS_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(imagefs_flags INTERFACE -Wno-tsan)
  endif()
endif()
# Without it libFuzzer sees no coverage of the code under test and only throws dice.
if(IMAGEFS_FUZZ)
  target_compile_options(imagefs_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
# Not of generated code, which has no imagefs_flags of its own.
if(IMAGEFS_COVERAGE)
  target_compile_options(imagefs_flags INTERFACE -fprofile-instr-generate -fcoverage-mapping)
  target_link_options(imagefs_flags INTERFACE -fprofile-instr-generate)
endif()
