# SPDX-License-Identifier: Apache-2.0
# What cmd/ links for gRPC and protobuf: IMAGEFS_LIBS_rpc.
#
# With IMAGEFS_STATIC_RPC these and Abseil come from Debian's static archives, because loading and relocating
# their fifty-odd shared libraries costs every call of the command about 10 ms. Debian's absl:: targets name the
# shared libraries; they are pointed at the archives beside them, for the whole project, so that a binary never
# has two copies of Abseil.
if(NOT IMAGEFS_STATIC_RPC)
  pkg_check_modules(RPC REQUIRED IMPORTED_TARGET grpc++_unsecure protobuf re2)
  set(IMAGEFS_LIBS_rpc PkgConfig::RPC)
  return()
endif()

set(absl_archives)
get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
foreach(target ${imported})
  if(target MATCHES "^absl::")
    get_target_property(type ${target} TYPE)
    if(type STREQUAL "SHARED_LIBRARY")
      get_target_property(shared ${target} IMPORTED_LOCATION_NONE)
      string(REGEX REPLACE "\\.so(\\.[0-9]+)*$" ".a" archive "${shared}")
      if(NOT EXISTS "${archive}")
        message(FATAL_ERROR "IMAGEFS_STATIC_RPC: no ${archive} beside ${shared}; install libabsl-dev")
      endif()
      set_target_properties(${target} PROPERTIES IMPORTED_LOCATION_NONE "${archive}" IMPORTED_SONAME_NONE "")
      list(APPEND absl_archives "${archive}")
    endif()
  endif()
endforeach()

set(archives)
foreach(name grpc++_unsecure grpc_unsecure gpr address_sorting upb cares re2 protobuf z)
  find_library(IMAGEFS_${name}_ARCHIVE lib${name}.a REQUIRED)
  list(APPEND archives ${IMAGEFS_${name}_ARCHIVE})
endforeach()

# CMake takes the absl:: targets for shared libraries and does not repeat them behind their users, so all
# archives go into one group that the linker scans until nothing is missing.
list(APPEND archives ${absl_archives})
list(JOIN archives "," archives)
add_library(imagefs_rpc_static INTERFACE)
target_link_libraries(imagefs_rpc_static INTERFACE "$<LINK_GROUP:RESCAN,${archives}>" Threads::Threads ${CMAKE_DL_LIBS})
set(IMAGEFS_LIBS_rpc imagefs_rpc_static)
add_link_options(-Wl,--gc-sections -Wl,--as-needed)
