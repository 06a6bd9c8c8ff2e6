# SPDX-License-Identifier: Apache-2.0
# image/ztoc.fbs is a foreign format; its header is generated. Reading needs nothing but headers.
find_program(FLATC flatc REQUIRED)

set(schema ${CMAKE_SOURCE_DIR}/image/ztoc.fbs)
set(generated ${CMAKE_BINARY_DIR}/generated/ztoc_generated.h)
add_custom_command(
  OUTPUT ${generated}
  COMMAND ${FLATC} --cpp --cpp-std c++17 -o ${CMAKE_BINARY_DIR}/generated/ ${schema}
  DEPENDS ${schema}
  VERBATIM)
add_custom_target(imagefs_ztoc_schema DEPENDS ${generated})
add_dependencies(imagefs_image imagefs_ztoc_schema)
