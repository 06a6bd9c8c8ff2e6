// SPDX-License-Identifier: Apache-2.0
// A home and a session of a user's own, and a directory of credential helpers in PATH.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <string>

#include "base/directory.h"
#include "base/fd.h"
#include "base/text.h"
#include "fetch/credentials.h"

namespace imagefs {

class CredentialDirsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/credential_dirs.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    options_.home = dir_ + "/home";
    options_.xdg_runtime_dir = dir_ + "/run";
    const char* path = getenv("PATH");
    old_path_ = path == nullptr ? "" : path;
    ASSERT_TRUE(MakeDirs(dir_ + "/bin").ok());
    setenv("PATH", StrCat(dir_, "/bin:", old_path_).c_str(), 1);
  }
  void TearDown() override {
    setenv("PATH", old_path_.c_str(), 1);
    EXPECT_TRUE(RemoveTree(dir_).ok());
  }

  // Makes the directories above it.
  static void WriteAt(const std::string& path, const std::string& text, mode_t mode) {
    ASSERT_TRUE(MakeDirs(ParentOf(path), 0700).ok());
    ASSERT_TRUE(WriteFileDurably(path, text, mode).ok());
    ASSERT_EQ(chmod(path.c_str(), mode), 0);
  }

  std::string dir_, old_path_;
  CredentialOptions options_;
};

}  // namespace imagefs
