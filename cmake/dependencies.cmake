# SPDX-License-Identifier: Apache-2.0
# Third-party libraries, all from Debian. IMAGEFS_LIBS_<folder> is what that folder links beside those to its left.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
find_package(GTest REQUIRED)
find_package(leveldb REQUIRED)
# The shared library links snappy itself; Debian's target asks for its development package all the same.
set_property(TARGET leveldb::leveldb PROPERTY INTERFACE_LINK_LIBRARIES Threads::Threads)
pkg_check_modules(OPENSSL REQUIRED IMPORTED_TARGET libcrypto)
pkg_check_modules(FUSE REQUIRED IMPORTED_TARGET fuse3)
pkg_check_modules(CURL REQUIRED IMPORTED_TARGET libcurl)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(ISAL REQUIRED IMPORTED_TARGET libisal)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(SPDLOG REQUIRED IMPORTED_TARGET spdlog)
pkg_check_modules(PROMETHEUS REQUIRED IMPORTED_TARGET prometheus-cpp-core)
pkg_check_modules(MICROHTTPD REQUIRED IMPORTED_TARGET libmicrohttpd)
pkg_check_modules(SMARTCOLS REQUIRED IMPORTED_TARGET smartcols)
pkg_check_modules(SYSTEMD REQUIRED IMPORTED_TARGET libsystemd)

set(IMAGEFS_ABSL absl::status absl::statusor absl::strings absl::str_format absl::synchronization absl::time
                 absl::flat_hash_map absl::flat_hash_set absl::node_hash_map absl::btree absl::any_invocable
                 absl::function_ref absl::inlined_vector absl::span absl::cleanup)

set(IMAGEFS_LIBS_base ${IMAGEFS_ABSL} Threads::Threads PkgConfig::OPENSSL PkgConfig::SPDLOG)
set(IMAGEFS_LIBS_image PkgConfig::ZSTD PkgConfig::ISAL)
set(IMAGEFS_LIBS_fetch PkgConfig::CURL PkgConfig::YAML)
set(IMAGEFS_LIBS_cache leveldb::leveldb)
set(IMAGEFS_LIBS_fs PkgConfig::FUSE)
set(IMAGEFS_LIBS_snap imagefs_containerd_proto imagefs_cri_proto)
