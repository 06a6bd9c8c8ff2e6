# Libraries that only the daemon uses are loaded at their first call: libcurl alone brings thirty others and costs
# every call of the command 15 ms. A function that is missing from a list below fails the link by its name.
#
# imagefs_lazy_library(TARGET pkg-config target, whose library is replaced by stand-ins
#                      SONAME what is loaded
#                      FUNCTIONS those that the project calls)
function(imagefs_lazy_library target soname)
  string(MAKE_C_IDENTIFIER ${target} LAZY_ID)
  set(LAZY_SONAME ${soname})
  list(LENGTH ARGN LAZY_COUNT)
  list(TRANSFORM ARGN REPLACE "(.+)" "\"\\1\"" OUTPUT_VARIABLE quoted)
  list(JOIN quoted ",\n                             " LAZY_NAMES)
  set(LAZY_STUBS "")
  set(index 0)
  foreach(name ${ARGN})
    string(APPEND LAZY_STUBS "  lazy_${LAZY_ID}_function ${name}, ${index}\n")
    math(EXPR index "${index} + 1")
  endforeach()
  configure_file(${CMAKE_SOURCE_DIR}/cmake/lazy_library.cc.in ${CMAKE_BINARY_DIR}/lazy/${LAZY_ID}.cc @ONLY)
  add_library(lazy_${LAZY_ID} STATIC ${CMAKE_BINARY_DIR}/lazy/${LAZY_ID}.cc)
  target_link_libraries(lazy_${LAZY_ID} PRIVATE ${CMAKE_DL_LIBS})
  set_property(TARGET ${target} PROPERTY INTERFACE_LINK_LIBRARIES lazy_${LAZY_ID})
  set_property(TARGET ${target} PROPERTY INTERFACE_LINK_OPTIONS "")
endfunction()

# The stand-ins are written for one architecture; elsewhere the libraries are linked as usual.
if(NOT IMAGEFS_STATIC_RPC OR NOT CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  return()
endif()

imagefs_lazy_library(PkgConfig::CURL libcurl.so.4
  curl_easy_cleanup curl_easy_getinfo curl_easy_init curl_easy_setopt curl_easy_strerror
  curl_global_cleanup curl_global_init curl_multi_add_handle curl_multi_cleanup curl_multi_info_read
  curl_multi_init curl_multi_perform curl_multi_poll curl_multi_remove_handle curl_multi_setopt
  curl_multi_wakeup curl_slist_append curl_slist_free_all curl_version_info)
imagefs_lazy_library(PkgConfig::ARCHIVE libarchive.so.13
  archive_entry_filetype archive_entry_gid archive_entry_hardlink archive_entry_mtime
  archive_entry_mtime_nsec archive_entry_pathname archive_entry_perm archive_entry_rdevmajor
  archive_entry_rdevminor archive_entry_size archive_entry_sparse_count archive_entry_sparse_next
  archive_entry_sparse_reset archive_entry_symlink archive_entry_uid archive_entry_xattr_next
  archive_entry_xattr_reset archive_error_string archive_filter_bytes archive_read_free
  archive_read_header_position archive_read_new archive_read_next_header archive_read_open1
  archive_read_set_callback_data archive_read_set_read_callback archive_read_set_skip_callback
  archive_read_support_format_empty archive_read_support_format_tar archive_set_error)
imagefs_lazy_library(PkgConfig::OPENSSL libcrypto.so.3
  EVP_DigestFinal_ex EVP_DigestInit_ex EVP_DigestUpdate EVP_MD_CTX_free EVP_MD_CTX_new EVP_sha256)
