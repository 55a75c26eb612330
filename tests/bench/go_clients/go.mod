module apiha.test/clients

go 1.24
