# What is installed, and the Debian package of it: cpack --config build/release/CPackConfig.cmake
install(TARGETS linnet COMPONENT runtime)
if(LINNET_CUDA_BUILT)  # opened when a device is asked for: the package does not depend on CUDA
  install(TARGETS linnet_cuda LIBRARY DESTINATION lib/linnet COMPONENT runtime)
endif()
install(FILES README.md DESTINATION share/doc/linnet COMPONENT runtime)
install(FILES LICENSE DESTINATION share/doc/linnet RENAME copyright COMPONENT runtime)
install(DIRECTORY docs DESTINATION share/doc/linnet COMPONENT runtime FILES_MATCHING PATTERN "*.md")
install(FILES packaging/linnet.service DESTINATION lib/systemd/system COMPONENT runtime)
if(EXISTS ${PROJECT_SOURCE_DIR}/models/default/config.json)
  install(DIRECTORY models/default DESTINATION share/linnet/models COMPONENT runtime)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_COMPONENTS_ALL runtime)
set(CPACK_PACKAGE_NAME linnet)
set(CPACK_PACKAGE_CONTACT "Linnet's maintainers <linnet@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "trains, runs and serves Kimi Linear language models")
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "One program: linnet generate, chat, train, and serve, an HTTP server with OpenAI's API and a chat page.
The service linnet.service is installed, but neither enabled nor started.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME linnet)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_CONTROL_EXTRA
    "${PROJECT_SOURCE_DIR}/packaging/postinst;${PROJECT_SOURCE_DIR}/packaging/prerm;${PROJECT_SOURCE_DIR}/packaging/postrm")
include(CPack)

if(LINNET_TESTS AND NOT LINNET_SANITIZE)
  add_test(NAME package COMMAND ${PROJECT_SOURCE_DIR}/tests/tools/package_test ${PROJECT_BINARY_DIR})
  set_tests_properties(package PROPERTIES SKIP_RETURN_CODE 77)  # no dpkg-dev or no file(1) on this machine
endif()
