# What cmd/ links for gRPC and protobuf: IMAGEFS_LIBS_rpc.
#
# With IMAGEFS_STATIC_RPC these and Abseil come from Debian's static archives, because loading and relocating
# their fifty-odd shared libraries costs every call of the command about 10 ms. Debian's absl:: targets name the
# shared libraries; they are pointed at the archives beside them, for the whole project, so that a binary never
# has two copies of Abseil.
if(NOT IMAGEFS_STATIC_RPC)
  pkg_check_modules(RPC REQUIRED IMPORTED_TARGET grpc++_unsecure protobuf)
  set(IMAGEFS_LIBS_rpc PkgConfig::RPC)
  return()
endif()

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
    endif()
  endif()
endforeach()

# In the order in which they need each other.
set(archives)
foreach(name grpc++_unsecure grpc_unsecure gpr address_sorting upb cares re2 protobuf z)
  find_library(IMAGEFS_${name}_ARCHIVE lib${name}.a REQUIRED)
  list(APPEND archives ${IMAGEFS_${name}_ARCHIVE})
endforeach()

# The parts of Abseil that the archives use, as gRPC's own pkg-config file lists them.
pkg_check_modules(RPC_STATIC REQUIRED grpc++_unsecure)
set(rpc_absl)
foreach(name ${RPC_STATIC_STATIC_LIBRARIES})
  if(name MATCHES "^absl_(.*)$" AND TARGET absl::${CMAKE_MATCH_1})
    list(APPEND rpc_absl absl::${CMAKE_MATCH_1})
  endif()
endforeach()
list(REMOVE_DUPLICATES rpc_absl)

list(POP_FRONT archives first)
add_library(imagefs_rpc_static STATIC IMPORTED GLOBAL)
set_target_properties(imagefs_rpc_static PROPERTIES IMPORTED_LOCATION ${first}
  INTERFACE_LINK_LIBRARIES "${archives};${rpc_absl};Threads::Threads;${CMAKE_DL_LIBS}")
set(IMAGEFS_LIBS_rpc imagefs_rpc_static)
add_link_options(-Wl,--gc-sections)
