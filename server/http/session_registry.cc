#include "server/http/session.h"

namespace shoal {

void SessionRegistry::Add(const std::shared_ptr<Session>& session) {
  absl::MutexLock lock(&mutex_);
  sessions_[session.get()] = session;
}

void SessionRegistry::Remove(Session* session) {
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session);
}

int SessionRegistry::size() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(sessions_.size());
}

void SessionRegistry::CloseAll() {
  for (const auto& session : Alive()) session->Close();
}

void SessionRegistry::CloseIdle() {
  for (const auto& session : Alive()) session->CloseIfIdle();
}

std::vector<std::shared_ptr<Session>> SessionRegistry::Alive() const {
  // The last owner of a session must not be a local of this loop while the
  // mutex is held: its destructor calls Remove().
  std::vector<std::shared_ptr<Session>> alive;
  absl::MutexLock lock(&mutex_);
  alive.reserve(sessions_.size());
  for (const auto& [raw, weak] : sessions_) {
    if (auto session = weak.lock()) alive.push_back(std::move(session));
  }
  return alive;
}

}  // namespace shoal
