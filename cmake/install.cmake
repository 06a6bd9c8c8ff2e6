# SPDX-License-Identifier: Apache-2.0
# `make install` and `make package`. What the daemon reads by a fixed name (/etc/imagefs, /etc/default/imagefs) is not
# installed by the former: it need not exist.
include(GNUInstallDirs)

# The daemon is looked for beside the command (docs/adr/0005-two-programs.md).
install(TARGETS imagefs imagefsd RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# Nobody starts it but the daemon, which looks here as well as beside itself.
install(TARGETS imagefs-holder RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/imagefs)

# mount(8) looks for its helpers in /sbin, which is /usr/sbin: with another prefix this link is for the manual.
file(RELATIVE_PATH to_bin ${CMAKE_INSTALL_FULL_SBINDIR} ${CMAKE_INSTALL_FULL_BINDIR})
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/install)
file(CREATE_LINK ${to_bin}/imagefs ${CMAKE_BINARY_DIR}/install/mount.imagefs SYMBOLIC)
install(FILES ${CMAKE_BINARY_DIR}/install/mount.imagefs DESTINATION ${CMAKE_INSTALL_SBINDIR})

set(IMAGEFS_UNIT_DIR lib/systemd/system CACHE STRING "where systemd finds units, below the prefix or absolute")
# The prefix is known when it is installed: `cmake --install --prefix` and the package choose their own.
install(CODE "
  set(CMAKE_INSTALL_FULL_BINDIR \${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR})
  configure_file(${CMAKE_SOURCE_DIR}/systemd/imagefs.service.in ${CMAKE_BINARY_DIR}/install/imagefs.service @ONLY)")
install(FILES ${CMAKE_BINARY_DIR}/install/imagefs.service systemd/imagefs.socket systemd/imagefs-snapshotter.socket
              systemd/imagefs-cri.socket DESTINATION ${IMAGEFS_UNIT_DIR})
install(DIRECTORY systemd/containerd.service.d DESTINATION ${IMAGEFS_UNIT_DIR})

install(FILES completions/imagefs.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME imagefs)
install(FILES completions/_imagefs DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
install(FILES completions/imagefs.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)

# -n: no time in the file, so that two builds give the same bytes.
find_program(GZIP gzip REQUIRED)
function(imagefs_install_compressed file destination name)
  set(compressed ${CMAKE_BINARY_DIR}/install/${name}.gz)
  add_custom_command(OUTPUT ${compressed} COMMAND ${GZIP} -9nc ${file} > ${compressed} DEPENDS ${file} VERBATIM)
  set_property(GLOBAL APPEND PROPERTY imagefs_compressed ${compressed})
  install(FILES ${compressed} DESTINATION ${destination})
endfunction()
foreach(page imagefs.1 imagefsd.8 mount.imagefs.8 imagefs-config.toml.5)
  string(REGEX MATCH "[0-9]$" section ${page})
  imagefs_install_compressed(${CMAKE_SOURCE_DIR}/docs/man/${page} ${CMAKE_INSTALL_MANDIR}/man${section} ${page})
endforeach()
set(CMAKE_INSTALL_DOCDIR ${CMAKE_INSTALL_DATADIR}/doc/imagefs)
imagefs_install_compressed(${CMAKE_SOURCE_DIR}/packaging/changelog ${CMAKE_INSTALL_DOCDIR} changelog)
get_property(compressed GLOBAL PROPERTY imagefs_compressed)
add_custom_target(imagefs_documentation ALL DEPENDS ${compressed})
# Documents are arranged as in the sources, so that their links lead somewhere (tests/integration/096-install.sh).
install(FILES packaging/copyright README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md" PATTERN "*.json"
        PATTERN man EXCLUDE)
install(FILES packaging/prometheus/alerts.yml DESTINATION ${CMAKE_INSTALL_DOCDIR}/packaging/prometheus)
install(FILES packaging/grafana/imagefs.json DESTINATION ${CMAKE_INSTALL_DOCDIR}/packaging/grafana)
install(PROGRAMS packaging/verifiers/cosign packaging/verifiers/notation
        DESTINATION ${CMAKE_INSTALL_DOCDIR}/packaging/verifiers)
# Programs are generated from it, so it is no mere document; docs/api.md links to it.
install(FILES proto/control.proto DESTINATION ${CMAKE_INSTALL_DATADIR}/imagefs/proto)
file(CREATE_LINK ../../../imagefs/proto/control.proto ${CMAKE_BINARY_DIR}/install/control.proto SYMBOLIC)
install(FILES ${CMAKE_BINARY_DIR}/install/control.proto DESTINATION ${CMAKE_INSTALL_DOCDIR}/proto)
# A package of Debian refers to the licence that every Debian system has.
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT license)
file(CREATE_LINK ../../common-licenses/Apache-2.0 ${CMAKE_BINARY_DIR}/install/LICENSE SYMBOLIC)
install(FILES ${CMAKE_BINARY_DIR}/install/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT conffiles EXCLUDE_FROM_ALL)

# ---- the Debian package

install(FILES packaging/config.toml DESTINATION /etc/imagefs COMPONENT conffiles EXCLUDE_FROM_ALL)
install(FILES packaging/default DESTINATION /etc/default RENAME imagefs COMPONENT conffiles EXCLUDE_FROM_ALL)
install(FILES packaging/lintian-overrides DESTINATION share/lintian/overrides RENAME imagefs
        COMPONENT conffiles EXCLUDE_FROM_ALL)
set(IMAGEFS_MAINTAINER "imagefs maintainers <imagefs@packages.invalid>" CACHE STRING "of the Debian package")
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME imagefs)
set(CPACK_PACKAGE_CONTACT ${IMAGEFS_MAINTAINER})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "container images as file systems, without unpacking them")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
    "imagefs mounts any OCI image as a file tree: from a registry, before its
bytes are there where an index of it is published, by the kernel's EROFS or
by FUSE. It is also a snapshotter of containerd, and through it of
Kubernetes.")
# One package of everything, and of what only packages have.
set(CPACK_COMPONENTS_ALL Unspecified conffiles)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_NAME imagefs)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "init-system-helpers (>= 1.54~)")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "ca-certificates, fuse3")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "containerd, podman, uidmap")
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/package)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
foreach(script postinst prerm postrm conffiles)
  list(APPEND CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/packaging/${script})
endforeach()
include(CPack)
